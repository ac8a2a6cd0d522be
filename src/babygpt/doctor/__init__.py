"""Whether this computer, and a recipe on it, are fit to train: the verb doctor and its checks."""
