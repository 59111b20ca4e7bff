"""The tables of a screen: shards of units, finished tables, and the results folder as it is read back."""
