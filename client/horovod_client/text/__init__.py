"""How amounts, columns and trees are written for people."""
