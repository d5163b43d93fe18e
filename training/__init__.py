"""The scripts that made the demo model, from drawing the training pictures to judging the results."""
