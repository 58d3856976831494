"""One file a command. project.py, execution.py and terminal.py hold what several of them share."""
