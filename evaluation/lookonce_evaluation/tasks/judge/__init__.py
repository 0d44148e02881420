"""How much of a description survives in another: objects are listed from both and matched, and F1 is counted.

After Kaduri et al., arXiv 2411.17491: the original description is the truth, the altered one (the model's with some of
its attention knocked out, say) is held to it. Who lists and matches is a `Judge`: a language model, or, for the
bundled model's scenes, rules.
"""

from lookonce_evaluation.tasks.judge.judges import (
    Judge,
    Match,
    RuleJudge,
    Summary,
    add_judge_options,
    compare,
    judge_of,
    score,
    verdict,
)

__all__ = ["Judge", "Match", "RuleJudge", "Summary", "add_judge_options", "compare", "judge_of", "score", "verdict"]
