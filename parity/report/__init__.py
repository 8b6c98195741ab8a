"""The verdict for people and for machines: terminal, JSON, HTML."""
