"""Many runs: planned, executed on this machine or a cluster, looked at from anywhere, cleaned up."""
