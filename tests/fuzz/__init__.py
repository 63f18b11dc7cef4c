"""Requests that nobody would think of, in great numbers: the gateway must not fail, hang, leak or end."""
