"""The commands of `keras-stoch`: for each, its options and a call of the function that a script would call."""
