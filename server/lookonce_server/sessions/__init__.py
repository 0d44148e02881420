"""Questions about images: contexts found or made, and answers from them."""
