"""What a deployment keeps: buckets, tables, networks, images, topics."""
