"""Brevitas networks to export, each file a subject: ``--module examples.networks.resnet:resnet18``."""
