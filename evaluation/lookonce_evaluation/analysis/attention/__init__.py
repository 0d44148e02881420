"""`lookonce analyze attention`: where a checkpoint looks while it describes, and whether words look at their objects.

After Kaduri et al., arXiv 2411.17491. All attention is `AttentionRecorder.weights`, the server's own: what is analysed
here is what selections rank by.
"""
