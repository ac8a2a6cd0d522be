"""Labs: claims about training, each an experiment that anyone repeats with one command."""
