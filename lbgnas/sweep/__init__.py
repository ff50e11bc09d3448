"""Many searches and evaluations as one experiment of NNI: what varies, one trial, the experiment, the table."""
