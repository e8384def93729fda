"""What installs, checks, watches and moves the service; most modules are commands of their own."""

from terminal import end_commands_quietly

end_commands_quietly()
