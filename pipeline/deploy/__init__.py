"""From a config to what a scheduler takes: Kubernetes manifests for KubeRay, a script for Slurm."""
