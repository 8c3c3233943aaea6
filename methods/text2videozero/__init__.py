"""Text2Video-Zero (Khachatryan et al., ICCV 2023, arXiv 2303.13439): first-frame attention."""
