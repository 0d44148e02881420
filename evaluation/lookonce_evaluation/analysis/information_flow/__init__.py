"""How what is in an image reaches the answer: attention knocked out between groups of tokens, in sets of layers.

After Kaduri et al., arXiv 2411.17491 (descriptions, judged by their objects), and Zhang et al., arXiv 2411.18620
(answers, by the probability of their first token).
"""
