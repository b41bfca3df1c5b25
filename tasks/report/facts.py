"""Sentences for the report from the JSON files of other stages."""

from typing import Any

from tasks.report.evaluation import Balance, Certified, DescribedClass, EmbeddingFitness, NeighborAgreement
from tasks.report.formatting import format_share

PAIRS_SHOWN = 3
"""Most pairs of annotators whose agreement is spelled out: the pairs with the most items."""


def describe_fitness(found: dict[str, Any]) -> EmbeddingFitness:
    """The embedding's fitness, from embedding_fitness.json."""
    return EmbeddingFitness(
        sentences=tuple(map(str, found["sentences"])),
        rows=tuple(
            NeighborAgreement(
                labels=str(row["labels"]) + (f", {block} alone" if block else ""),
                n=int(row["items"]),
                chance=float("nan") if row["chance"] is None else float(row["chance"]),
                by_rank=tuple((int(at["rank"]), float(at["agreement"])) for at in row["neighbors"]),
            )
            for block, of in [("", found), *((str(one["block"]), one) for one in found["blocks"])]
            for row in of["agreement"]
        ),
        blocks=describe_blocks(found),
    )


def describe_blocks(found: dict[str, Any]) -> str | None:
    """The blocks of the embedding and their weights in a line; None if it is of one kind."""
    parts = [f"{one['block']} {one['weight']:.2f} ({one['dimensions']:,} dimensions)" for one in found["blocks"]]
    return ", ".join(parts) or None


def describe_certified(found: dict[str, Any]) -> Certified:
    """Which labels are certified, from end_model.json."""
    shares = found["certificate"]["share_by_class"]
    return Certified(
        sentence=str(found["certificate"]["summary"]),
        share_by_class=tuple(float("nan") if share is None else float(share) for share in shares.values()),
    )


def describe_thresholds(found: dict[str, Any]) -> str:
    """A sentence on how many LFs are extended and how thresholds were chosen, from thresholds.json."""
    extended = sum(value is not None for value in found["thresholds"].values())
    objective = f", for the {found['objective']}" if found["objective"] else ""
    return (
        f"{extended} of {len(found['thresholds'])} labeling functions are extended; {found['metric']}, "
        f"method {found['method']}, from {found['chosen_on']}{objective}"
    )


def describe_end_model(found: dict[str, Any]) -> str:
    """A sentence on how the shipped labels were made, from end_model.json."""
    weights = found["end_model_weights"]
    if weights is None:
        return str(found["summary"])
    named = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    return f"{found['summary']} Weights, chosen on held-out gold: {named}."


def describe_label_model(found: dict[str, Any]) -> str:
    """A sentence on which label model was fitted and how it was chosen, from label_model.json."""
    accuracy = found["held_out_accuracy"]
    if accuracy is None:
        return f"{found['label_model']}, named by {found['chosen_by']}"
    tried = ", ".join(f"{kind} {format_share(value)}" for kind, value in accuracy.items())
    return f"{found['label_model']}, chosen by {found['chosen_by']}; accuracy on held-out valid gold: {tried}"


def describe_fit(found: dict[str, Any]) -> str:
    """The number of items on which the label model was fitted, as text, from label_model.json."""
    gold = found["gold_rows"]
    return f"{found['fitted_rows']:,} items" + (f", {gold:,} of them with valid gold" if gold else ", no gold")


def read_balance(name: str, found: dict[str, Any], classes: tuple[str, ...]) -> Balance:
    """The class balance that label_model.json or end_model.json has, as a column of the report's table."""
    shares = {str(label): float(share) for label, share in found["class_balance"].items()}
    return Balance(name=name, source=str(found["class_balance_source"]), shares=tuple(shares[c] for c in classes))


def describe_descriptions(found: dict[str, Any]) -> list[str]:
    """Sentences on the LF that votes by what classes mean, from descriptions.json; empty if there is none."""
    return [] if found["lf"] is None else [f"'{found['lf']}' {found['why']}", *map(str, found["notes"])]


def read_described(found: dict[str, Any]) -> tuple[DescribedClass, ...]:
    """The classes that vote by their descriptions, from descriptions.json."""
    return tuple(
        DescribedClass(
            name=str(row["class"]),
            votes=int(row["votes"]),
            share=float(row["share"]),
            agreement=tuple(float("nan") if value is None else float(value) for value in row["curve"]),
            evidence=str(row["evidence"]),
        )
        for row in (() if found["lf"] is None else found["classes"])
    )


def describe_agreement(found: dict[str, Any]) -> list[str]:
    """Sentences on how far annotators of the same items agree, from the summary of gold; empty if no items are shared."""
    agreement = found["agreement"]
    alpha = agreement["krippendorff_alpha"]
    if alpha is None:
        return []
    pairs = [
        f"{' and '.join(pair['annotators'])} {pair['kappa']:.2f}"
        for pair in agreement["cohen_kappa"][:PAIRS_SHOWN]
        if pair["kappa"] is not None
    ]
    kappa = f"; Cohen's kappa of {', '.join(pairs)}" if pairs else ""
    return [
        f"Krippendorff's alpha {alpha:.3f} on {agreement['items']:,} items that several people labeled; they disagree on "
        f"{found['conflicts']:,}, and {found['unresolved']:,} have no gold for it{kappa}"
    ]
