"""`lookonce analyze knockout`: attention knocked out between groups of tokens.

After Kaduri et al., arXiv 2411.17491 (descriptions, judged by their objects), and Zhang et al., arXiv 2411.18620
(answers, by the probability of their first token).
"""
