# ruff: noqa: RUF001, E501 (Chinese has its own punctuation, and takes two columns a character)
"""Every word of a report that is not a name or a number, in both languages; a test holds the keys together."""

from typing import Literal

from segtrain.metrics import EMPTY_RULE

Language = Literal["en", "zh"]

TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "Training report",
        "overview": "Runs: {runs} (finished: {counted}). Variants: {variants}. Validation patients: {patients}.",
        "phantom": "Phantom patients, made by the program: the numbers say nothing about real patients.",
        "verdicts": "Compared with {baseline}: {better} better, {worse} worse, {rest} not distinguishable.",
        "too_few": "With so few common patients the test cannot find any difference, however large.",
        "nothing": "No run is finished, so there is nothing to compare yet.",
        "result": "Result", "patients": "Patients", "curves": "Curves", "runs": "Runs", "pictures": "Pictures",
        "dropped": "Runs that do not count", "method": "How to read this",
        "variant": "variant", "settings": "differs in", "n": "n", "mean_ci": "mean DSC, last epoch [95% CI]",
        "difference_ci": "difference to {baseline} [95% CI]", "p_holm": "p (Holm)", "verdict": "verdict",
        "best_mean": "mean DSC, best epoch*", "hours": "hours", "speed": "images/s", "run": "run", "fold": "fold",
        "seed": "seed", "state": "state", "epochs": "epochs", "last": "last epoch", "best": "best epoch*",
        "epoch": "epoch", "reason": "reason", "patient": "patient", "slices": "slices", "voxels": "voxels",
        "tp": "true positive", "fp": "false positive", "fn": "false negative", "mean": "mean", "median": "median",
        "dsc_last": "DSC, last epoch", "dsc_best": "DSC, best epoch*",
        "better": "better", "worse": "worse", "baseline": "baseline",
        "not distinguishable": "not distinguishable (n = {n})", "no patient in common": "no patient in common",
        "finished": "finished", "stopped": "stopped", "diverged": "diverged", "failed": "failed",
        "running": "has not ended", "unreadable": "unreadable",
        "forest": "Difference of mean DSC to {baseline}, with 95% CI",
        "forest_axis": "← worse than {baseline}  |  better →",
        "strip": "DSC of every patient, last epoch; black: the mean", "bars": "DSC of every patient, last epoch",
        "loss": "Training loss", "val_loss": "Validation loss", "val_dsc": "Validation mean DSC",
        "losses": "Loss of training and validation", "of_training": "training", "of_validation": "validation",
        "thin": "Thin lines: runs. Thick lines: their mean, over the epochs that all of them have.",
        "picture": "{run}, epoch {epoch} ({which}): prediction red, truth green, yellow where they agree",
        "no_room": "{run}: the pictures are left out, the page would be over {limit_mb} MB.",
        "sort": "Columns sort by a click on their head, or by Enter on it.",
        "method_epoch": "The last epoch was fixed before training and is the headline."
        " *The best epoch was chosen on the patients that score it, so its numbers are too good.",
        "method_ci": "Intervals: 95%, percentile bootstrap over patients (seeded)."
        " They say what other patients could give, not what another seed could; the seeds are in the table of runs.",
        "method_mean": "A patient's DSC is averaged over seeds, then over patients. Empty volumes: {rule}.",
        "empty_rule": EMPTY_RULE,
        "method_test": "Differences are paired: the same patient, fold and seed."
        " Verdict: Wilcoxon signed-rank, two-sided, Holm's correction over {m} variants, p at most {alpha:g}, and the interval excludes 0.",
        "method_baseline": "The baseline is {baseline}: as asked for, or else the variant whose training began first.",
        "method_hours": "Hours: from a run's first to its last event, waiting between starts included; images/s: median.",
    },
    "zh": {
        "title": "训练报告",
        "overview": "训练：{runs} 次（已完成 {counted} 次）。方案：{variants} 个。验证患者：{patients} 名。",
        "phantom": "数据为程序生成的模拟患者：这些数字不代表真实患者。",
        "verdicts": "与 {baseline} 相比：{better} 个更好，{worse} 个更差，{rest} 个无法区分。",
        "too_few": "共同患者太少：无论差异多大，检验都无法发现。",
        "nothing": "还没有已完成的训练，暂无可比较的结果。",
        "result": "结果", "patients": "患者", "curves": "曲线", "runs": "训练", "pictures": "图像",
        "dropped": "未计入的训练", "method": "阅读说明",
        "variant": "方案", "settings": "不同的设置", "n": "n", "mean_ci": "平均 DSC，最后一轮 [95% CI]",
        "difference_ci": "与 {baseline} 之差 [95% CI]", "p_holm": "p（Holm 校正）", "verdict": "结论",
        "best_mean": "平均 DSC，最佳轮*", "hours": "小时", "speed": "图像/秒", "run": "训练", "fold": "折",
        "seed": "种子", "state": "状态", "epochs": "轮数", "last": "最后一轮", "best": "最佳轮*",
        "epoch": "轮", "reason": "原因", "patient": "患者", "slices": "切片数", "voxels": "体素数",
        "tp": "真阳性", "fp": "假阳性", "fn": "假阴性", "mean": "平均值", "median": "中位数",
        "dsc_last": "DSC，最后一轮", "dsc_best": "DSC，最佳轮*",
        "better": "更好", "worse": "更差", "baseline": "基线",
        "not distinguishable": "无法区分（n = {n}）", "no patient in common": "没有共同患者",
        "finished": "已完成", "stopped": "已停止", "diverged": "发散", "failed": "失败",
        "running": "尚未结束", "unreadable": "无法读取",
        "forest": "与 {baseline} 的平均 DSC 之差，含 95% CI",
        "forest_axis": "← 比 {baseline} 差  |  更好 →",
        "strip": "每名患者的 DSC，最后一轮；黑线为平均值", "bars": "每名患者的 DSC，最后一轮",
        "loss": "训练损失", "val_loss": "验证损失", "val_dsc": "验证平均 DSC",
        "losses": "训练与验证损失", "of_training": "训练", "of_validation": "验证",
        "thin": "细线：各次训练。粗线：它们在共有轮次上的平均值。",
        "picture": "{run}，第 {epoch} 轮（{which}）：红色为预测，绿色为真值，黄色为二者重合",
        "no_room": "{run}：图像已省略，否则页面会超过 {limit_mb} MB。",
        "sort": "点击表头，或在表头上按回车键，即可排序。",
        "method_epoch": "最后一轮在训练前已固定，作为主要结果。*最佳轮是在评分所用的同一批患者上选出的，因此其数值偏高。",
        "method_ci": "区间：95%，对患者做百分位自助法（固定种子）。它反映换一批患者的变化，不反映换一个训练种子的变化：种子见训练表。",
        "method_mean": "每名患者的 DSC 先对种子取平均，再对患者取平均。空体积规则：{rule}。",
        "empty_rule": "真值与预测均为空时 DSC 为 1；仅其中之一为空时 DSC 为 0",
        "method_test": "差值为配对：同一患者、同一折、同一种子。结论：双侧 Wilcoxon 符号秩检验，对 {m} 个方案做 Holm 校正，"
        "p 不超过 {alpha:g} 且区间不含 0。",
        "method_baseline": "基线为 {baseline}：由用户指定，否则为最先开始训练的方案。",
        "method_hours": "小时：从一次训练的第一个事件到最后一个事件，包括多次启动之间的等待；图像/秒：中位数。",
    },
}  # fmt: skip
