"""Inference: run an artefact of a bundle, return predictions, verify."""
