"""The small trained world: exact clips, and networks of the real classes trained on them."""
