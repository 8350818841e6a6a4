from xtuner.cli import entry

entry()
