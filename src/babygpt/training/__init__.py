"""Lightning's side of a run."""
