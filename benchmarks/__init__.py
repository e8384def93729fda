"""What is measured, each by a command of its own; benchmarks/README.md lists them."""

from terminal import end_commands_quietly

end_commands_quietly()
