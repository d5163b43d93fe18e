"""The scripts that made the demo model, from drawing its pictures to judging what it draws."""
