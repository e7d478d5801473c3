import io

from rich.console import Console

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import ArmResult, Report, print_report, report_table


def printed(report, **options):
    stream = io.StringIO()
    print_report(report, Console(file=stream, **options))
    return stream.getvalue()


def test_teacher_first_then_the_arms(build_report):
    lines = [line for line in printed(build_report()).splitlines() if line.strip()]
    assert lines[-1].startswith("PLD reaches an accuracy of")
    assert lines[0].split("  ")[0] == "Model"
    assert [line.split("  ")[0].rstrip() for line in lines[1:5]] == [
        "convnet (teacher)",
        "cross-entropy (3 seeds)",
        "knowledge distillation (3 seeds)",
        "PLD (3 seeds)",
    ]
    for word in ("Accuracy, %", "Calibration error (ECE), %", "Agreement with teacher, %", "Parameters", "Latency, ms"):
        assert word in lines[0]
    assert " *" in lines[4]
    assert " ≈" in lines[3]


def test_plain_text_off_a_terminal(build_report):
    text = printed(build_report(), width=40)
    assert "\x1b" not in text
    assert not set(text) & set("─│┃━╭╮")
    assert "…" not in text
    assert len({line.count("\t") for line in text.splitlines()}) == 1


def test_colours_on_a_terminal(build_report):
    text = printed(build_report(), force_terminal=True, width=160)
    assert "\x1b[1m" in text


def test_names_are_neither_markup_nor_control():
    card = ReportCard("a", "classification", 9, {"accuracy": 0.5})
    report = Report(
        "t", summary="[bold]all[/bold] \x1b[31mred", arms=[ArmResult("[red]x[/red]\x1b]0;t\x07", cards=[card])]
    )
    text = printed(report)
    assert "[bold]all[/bold]" in text
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_an_empty_report_prints_its_summary():
    assert printed(Report("t")).startswith("Nothing was measured")
    assert report_table(Report("t")).row_count == 0
