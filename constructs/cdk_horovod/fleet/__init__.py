"""The Auto Scaling group of GPU instances, and what it is made of."""
