"""Resources that exist between runs: buckets, ledger table, network, image, topics."""
