"""The command line `edge-emotion`: one module per command, heavy imports inside the commands."""
