"""ControlVideo (Zhang et al., ICLR 2024, arXiv 2305.13077): ControlNet + cross-frame attention."""
