"""Encoders without padding: a model described as plain weights, and forwards that compute from that description."""
