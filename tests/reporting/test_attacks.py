from __future__ import annotations

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import ArmResult, Report, render_report
from tutelage.reporting.attacks import attack_table

MISSING = "AutoAttack: not measured, install tutelage[robustness]."


def card(name: str, clean: float, pgd20: float, auto_attack: float | None = None, **changes) -> ReportCard:
    attacks = {
        **{"radius": 8 / 255, "clean": clean, "fgsm": clean - 0.1, "pgd20": pgd20, "auto_attack": auto_attack},
        **{"num_samples": 256, "auto_attack_samples": 0, "note": "" if auto_attack else MISSING, **changes},
    }
    curve = {"epsilon": [0.0, 0.1], "accuracy": [clean, pgd20]}
    return ReportCard(name, "classification", 900, robustness={**curve, "attacks": attacks, "range": [0.0, 1.0]})


def test_a_row_a_model_and_a_column_an_attack():
    report = Report("t", teacher=card("big", 0.99, 0.6), arms=[ArmResult("kd", cards=[card("a", 0.9, 0.5)] * 2)])
    table = attack_table(report, ["s0"])
    assert table.columns == ("Clean", "FGSM", "PGD-20")
    assert table.rows == (
        ("teacher", "big", ("99.00", "89.00", "60.00")),
        ("s0", "kd", ("90.00", "80.00", "50.00")),
    )
    assert table.notes == (MISSING,)  # once, not once a card
    assert "at most 0.0314 (inputs lie between 0 and 1), on 256 samples" in table.lead


def test_seeds_have_a_spread_and_gaps_stay_empty():
    arms = [
        ArmResult("a", cards=[card("a", 0.9, 0.5), card("a", 0.8, 0.3)]),
        ArmResult("b", cards=[card("b", 1, 1, 0.4)]),
    ]
    table = attack_table(Report("t", arms=arms), ["s0", "s1"])
    assert table.columns[-1] == "AutoAttack"
    assert table.rows[0][2][0] == "85.00 ± 7.07"
    assert table.rows[0][2][-1] == ""
    assert table.rows[1][2][-1] == "40.00"


def test_nothing_asked_is_no_section():
    report = Report("t", arms=[ArmResult("a", cards=[ReportCard("a", "classification", 9)]), ArmResult("b")])
    assert attack_table(report, ["s0", "s1"]) is None
    assert 'id="robustness"' not in render_report(report)


def test_the_page_holds_the_table_or_the_reason():
    page = render_report(Report("t", arms=[ArmResult("a", cards=[card("a", 0.9, 0.5)])]))
    assert MISSING in page
    assert "PGD-20" in page.split('id="robustness"')[1]
    absent = ReportCard("a", "causal_lm", 9, robustness={"absent": "Attacks are made on classifiers; this is <text>."})
    page = render_report(Report("t", arms=[ArmResult("a", cards=[absent])]))
    assert "Not measured. Attacks are made on classifiers; this is &lt;text&gt;." in page
    assert 'href="#robustness"' in page
