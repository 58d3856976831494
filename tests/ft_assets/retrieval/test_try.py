def test_it(released):
    for n in ("embedding_model","embedding_evaluation","passage_vectors","qdrant_collection","retrieval_evaluation","fusion_sweep"):
        s=dict(released.artifact(n).summary); s.pop('intervals',None); print(n,s)
