"""The commands of `ft`, one file each. project.py, execution.py and terminal.py are shared by several of them."""
