# ruff: noqa: RUF001, E501 (Chinese has its own punctuation, and takes two columns a character)
"""All texts of a report, in both languages; a test holds the keys together."""

from collections.abc import Callable
from typing import Literal

from segtrain.evaluation.metrics import EMPTY_RULE

Language = Literal["en", "zh"]
Say = Callable[..., str]

TEXTS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "Training report",
        "overview": "Runs: {runs} (finished: {counted}, not begun: {waiting}). Variants: {variants}. Validation patients: {patients}.",
        "phantom": "Phantom patients, made by the program: the numbers say nothing about real patients.",
        "misnamed": "The name gives another fold or seed than the config; the name's count: {runs}.",
        "verdicts": "Compared with {baseline}: {better} better, {worse} worse, {rest} not distinguishable.",
        "too_few": "With so few common patients the test cannot find any difference, however large.",
        "nothing": "No run is finished, so there is nothing to compare yet.",
        "result": "Result", "patients": "Patients", "curves": "Curves", "runs": "Runs", "pictures": "Pictures",
        "dropped": "Runs that do not count", "method": "How to read this",
        "variant": "variant", "settings": "differs in", "n": "n", "mean_ci": "mean DSC, last epoch [95% CI]",
        "difference_ci": "difference to {baseline} [95% CI]", "p_holm": "p (Holm)", "verdict": "verdict",
        "pairs": "pairs (by)", "fold and seed": "fold and seed", "patients' means": "patients' means",
        "best_mean": "mean DSC, best epoch* [95% CI]", "hours": "hours", "gpu_hours": "GPU hours", "speed": "images/s", "run": "run", "fold": "fold",
        "seed": "seed", "state": "state", "epochs": "epochs", "last": "last epoch", "best": "best epoch*",
        "epoch": "epoch", "reason": "reason", "patient": "patient", "slices": "slices", "voxels": "voxels",
        "tp": "true positive", "fp": "false positive", "fn": "false negative", "mean": "mean", "median": "median",
        "dsc_last": "DSC, last epoch", "dsc_best": "DSC, best epoch*",
        "better": "better (n = {n})", "worse": "worse (n = {n})", "baseline": "baseline",
        "not distinguishable": "not distinguishable (n = {n})", "no patient in common": "no patient in common",
        "finished": "finished", "stopped": "stopped", "diverged": "diverged", "failed": "failed",
        "running": "has not ended", "unreadable": "unreadable", "none": "not begun",
        "why_none": "listed in results.csv, never begun", "why_running": "still going on, or killed before it could say why",
        "why_stopped": "asked to stop; the same command goes on", "why_diverged": "the loss is not finite",
        "why_failed": "no reason was given", "why_unreadable": "no reason was given", "why_finished": "nothing was evaluated",
        "forest": "Difference of mean DSC to {baseline}, with 95% CI",
        "forest_axis": "← worse than {baseline}  |  better →",
        "strip": "DSC of every patient, last epoch; black: the mean [95% CI]", "bars": "DSC of every patient, last epoch; mean [95% CI] and median",
        "loss": "Training loss", "val_loss": "Validation loss", "val_dsc": "Validation mean DSC",
        "losses": "Loss of training and validation", "of_training": "training", "of_validation": "validation",
        "thin": "Thin lines: runs. Thick lines: their mean, over the epochs that all of them have.",
        "picture": "{run}, epoch {epoch} ({which}): prediction red, truth green, yellow where they agree",
        "no_room": "{run}: the pictures are left out, the page would be over {limit_mb} MB.",
        "atlas": "Atlas",
        "no_atlas": "No atlas of {run}: {reason}.",
        "atlas_of": "{run}: {n} validation patients, worst first, as {checkpoint} (epoch {epoch}, the last that was scored) segments them.",
        "atlas_how": "Predicted and scored anew for this report, by the code that scores in training.",
        "atlas_same": "All scores are those of the run's table, to the last digit.",
        "atlas_differs": "{run}: otherwise than in the run's table score here: {patients}."
        " The data, the machine or the versions are not those of the training.",
        "atlas_left_out": "{run}: left out are the {n} with the best scores; the page would be too large.",
        "weights_sha256": "SHA-256 of its weights (model.safetensors)", "weights": "weights", "settings_of": "scored with",
        "view": "view", "four": "side by side", "flair": "FLAIR", "truth": "truth", "prediction": "prediction",
        "outlines": "both outlines", "difference": "difference",
        "legend_truth": "truth: green, solid", "legend_prediction": "prediction: red, dashed",
        "legend_fp": "predicted alone (false positive): orange", "legend_fn": "missed (false negative): blue, hatched",
        "legend_tp": "agreed (true positive): faint white",
        "atlas_keys": "The slider moves through the slices: drag it, or use the arrow keys; Home and End go to the ends."
        " It begins at the slice with most wrong voxels. The bars under it are the voxels of each slice.",
        "slice": "slice", "slice_of": "slice of {patient}", "dsc": "DSC", "dsc_all": "DSC, all components",
        "rank": "{place} of {n}",
        "sort": "Columns sort by a click on their head, or by Enter on it.",
        "chosen_epoch": "The last epoch was fixed before training and is the headline."
        " *The best epoch was chosen on the patients that score it, so its numbers are too good.",
        "method_ci": "Intervals: 95%, percentile bootstrap over patients (seeded)."
        " They say what other patients could give, not what another seed could; the seeds are in the table of runs.",
        "method_mean": "A patient's DSC is averaged over seeds, then over patients. Empty volumes: {rule}.",
        "empty_rule": EMPTY_RULE,
        "method_test": "Differences are paired: the same patient, fold and seed; where a variant shares no fold and seed with the baseline,"
        " each patient's means are compared, and its pairs say so."
        " Verdict: Wilcoxon signed-rank, two-sided, Holm's correction over {m} variants, p at most {alpha:g}, and the interval excludes 0.",
        "method_baseline": "The baseline is {baseline}: as asked for, or else the variant whose training began first.",
        "method_hours": "Hours: at work, from each start to its last step, without the waiting between starts. GPU hours: times the number"
        " of GPUs, 0 on CPUs. Variants: the sum of their runs. Images/s: of all GPUs together, the median.",
    },
    "zh": {
        "title": "训练报告",
        "overview": "训练：{runs} 次（已完成 {counted} 次，尚未开始 {waiting} 次）。方案：{variants} 个。验证患者：{patients} 名。",
        "phantom": "数据为程序生成的模拟患者：这些数字不代表真实患者。",
        "misnamed": "以下训练的名称与其配置中的折或种子不一致，以名称为准：{runs}。",
        "verdicts": "与 {baseline} 相比：{better} 个更好，{worse} 个更差，{rest} 个无法区分。",
        "too_few": "共同患者太少：无论差异多大，检验都无法发现。",
        "nothing": "还没有已完成的训练，暂无可比较的结果。",
        "result": "结果", "patients": "患者", "curves": "曲线", "runs": "训练", "pictures": "图像",
        "dropped": "未计入的训练", "method": "阅读说明",
        "variant": "方案", "settings": "不同的设置", "n": "n", "mean_ci": "平均 DSC，最后一轮 [95% CI]",
        "difference_ci": "与 {baseline} 之差 [95% CI]", "p_holm": "p（Holm 校正）", "verdict": "结论",
        "pairs": "配对数（配对方式）", "fold and seed": "同折、同种子", "patients' means": "患者平均值",
        "best_mean": "平均 DSC，最佳轮* [95% CI]", "hours": "小时", "gpu_hours": "GPU 小时", "speed": "图像/秒", "run": "训练", "fold": "折",
        "seed": "种子", "state": "状态", "epochs": "轮数", "last": "最后一轮", "best": "最佳轮*",
        "epoch": "轮", "reason": "原因", "patient": "患者", "slices": "切片数", "voxels": "体素数",
        "tp": "真阳性", "fp": "假阳性", "fn": "假阴性", "mean": "平均值", "median": "中位数",
        "dsc_last": "DSC，最后一轮", "dsc_best": "DSC，最佳轮*",
        "better": "更好（n = {n}）", "worse": "更差（n = {n}）", "baseline": "基线",
        "not distinguishable": "无法区分（n = {n}）", "no patient in common": "没有共同患者",
        "finished": "已完成", "stopped": "已停止", "diverged": "发散", "failed": "失败",
        "running": "尚未结束", "unreadable": "无法读取", "none": "尚未开始",
        "why_none": "列在 results.csv 中，从未开始", "why_running": "仍在进行，或未及说明原因即被终止",
        "why_stopped": "按要求停止；同一命令可继续", "why_diverged": "损失值不是有限数",
        "why_failed": "没有给出原因", "why_unreadable": "没有给出原因", "why_finished": "没有任何评估",
        "forest": "与 {baseline} 的平均 DSC 之差，含 95% CI",
        "forest_axis": "← 比 {baseline} 差  |  更好 →",
        "strip": "每名患者的 DSC，最后一轮；黑线为平均值 [95% CI]", "bars": "每名患者的 DSC，最后一轮；平均值 [95% CI] 与中位数",
        "loss": "训练损失", "val_loss": "验证损失", "val_dsc": "验证平均 DSC",
        "losses": "训练与验证损失", "of_training": "训练", "of_validation": "验证",
        "thin": "细线：各次训练。粗线：它们在共有轮次上的平均值。",
        "picture": "{run}，第 {epoch} 轮（{which}）：红色为预测，绿色为真值，黄色为二者重合",
        "no_room": "{run}：图像已省略，否则页面会超过 {limit_mb} MB。",
        "atlas": "图集",
        "no_atlas": "{run} 没有图集：{reason}。",
        "atlas_of": "{run}：{n} 名验证患者，最差的在前；分割来自 {checkpoint}（第 {epoch} 轮，即最后一次评分的一轮）。",
        "atlas_how": "预测与评分为本报告重新计算，所用代码与训练中的评分相同。",
        "atlas_same": "每项评分都与训练记录的表格完全一致，直到最后一位数字。",
        "atlas_differs": "{run}：以下患者的评分与训练记录的表格不同：{patients}。数据、机器或软件版本与训练时不一致。",
        "atlas_left_out": "{run}：{n} 名评分最高的患者已省略，否则页面会过大。",
        "weights_sha256": "权重（model.safetensors）的 SHA-256", "weights": "权重", "settings_of": "评分设置",
        "view": "视图", "four": "并排", "flair": "FLAIR", "truth": "真值", "prediction": "预测",
        "outlines": "两种轮廓", "difference": "差异",
        "legend_truth": "真值：绿色实线", "legend_prediction": "预测：红色虚线",
        "legend_fp": "仅预测（假阳性）：橙色", "legend_fn": "漏检（假阴性）：蓝色斜纹",
        "legend_tp": "一致（真阳性）：淡白色",
        "atlas_keys": "滑块用于翻阅切片：可拖动，或用方向键；Home 和 End 键跳到两端。初始为错误体素最多的切片。"
        "下方的条形为每张切片的体素数。",
        "slice": "切片", "slice_of": "{patient} 的切片", "dsc": "DSC", "dsc_all": "DSC，全部连通区域",
        "rank": "第 {place} 名，共 {n} 名",
        "sort": "点击表头，或在表头上按回车键，即可排序。",
        "chosen_epoch": "最后一轮在训练前已固定，作为主要结果。*最佳轮是在评分所用的同一批患者上选出的，因此其数值偏高。",
        "method_ci": "区间：95%，对患者做百分位自助法（固定种子）。它反映换一批患者的变化，不反映换一个训练种子的变化：种子见训练表。",
        "method_mean": "每名患者的 DSC 先对种子取平均，再对患者取平均。空体积规则：{rule}。",
        "empty_rule": "真值与预测均为空时 DSC 为 1；仅其中之一为空时 DSC 为 0",
        "method_test": "差值为配对：同一患者、同一折、同一种子；若某方案与基线没有共同的折与种子，则比较每名患者的平均值，并在配对数中注明。结论：双侧 Wilcoxon 符号秩检验，对 {m} 个方案做 Holm 校正，"
        "p 不超过 {alpha:g} 且区间不含 0。",
        "method_baseline": "基线为 {baseline}：由用户指定，否则为最先开始训练的方案。",
        "method_hours": "小时：实际工作时间，即每次启动到其最后一步，不含启动之间的等待。GPU 小时：再乘以 GPU 数，CPU 上为 0。方案为其各次训练之和。图像/秒：全部 GPU 合计的中位数。",
    },
}  # fmt: skip


def say_in(language: Language) -> Say:
    """A function that gives the text of a key, with the values of its fields filled in."""

    def say(key: str, **values: object) -> str:
        return TEXTS[language][key].format(**values)

    return say
