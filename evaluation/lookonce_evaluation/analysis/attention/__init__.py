"""Attention in the describe pass, after Kaduri et al., arXiv 2411.17491."""
