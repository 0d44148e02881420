"""Questions about images, and the contexts that answer them."""
