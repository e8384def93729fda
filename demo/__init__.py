"""Two tiny demo checkpoints, Avibe (text) and Avision (images), and the seeded scripts that made them."""

from terminal import end_commands_quietly

end_commands_quietly()
