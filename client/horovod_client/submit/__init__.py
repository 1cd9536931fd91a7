"""From a script to a request: what is packed, checked and uploaded."""
