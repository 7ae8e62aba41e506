import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from clipreid_lib.__main__ import main
from clipreid_lib.data import audit, contract, datasets, eleven_k, inspection, protocols
from clipreid_lib.data.contract import Summary

NOTHING = Summary("", "", "", "", protocol="own")


def findings(root, **overrides) -> dict[str, audit.Finding]:
    table = datasets.load_images("demo", root, allow_missing=True)
    seen = inspection.inspect(table, root)
    manifest = protocols.build(table, "own", "dorsal_r", validation="none")
    summary = datasets.summary("demo")
    found = audit.judge_images(table, seen, summary, **overrides)
    return {each.about: each for each in found + audit.judge_protocol(manifest, "dorsal_r", table, seen, summary)}


@pytest.fixture
def copy(hands, tmp_path):
    """A copy of the tiny hands that a test may spoil, and its image files."""
    root = tmp_path / "hands"
    shutil.copytree(hands, root)
    return root, sorted((root / "Hands").iterdir())


def test_sound_hands_have_nothing_wrong(copy):
    root, _ = copy
    found = findings(root)
    assert not any(each.wrong for each in found.values())
    assert audit.format_findings(list(found.values()))[-1] == "OK"


def test_every_kind_of_broken_file_is_told_by_name(copy):
    root, files = copy
    files[0].write_text("no picture")
    files[1].write_bytes(files[1].read_bytes()[:2000])
    Image.new("RGB", (160, 120), "white").save(files[2])
    Image.new("RGB", (80, 60)).resize((80, 60)).save(files[3])
    shutil.copy(files[5], files[4])
    files[6].unlink()
    found = findings(root)
    wrong = {about: each.text for about, each in found.items() if each.wrong}
    assert re.fullmatch(r"1 of 128 images are absent: Hands/Hand_\d+.jpg", wrong["missing"])
    assert "2 images cannot be read" in wrong["unreadable"]
    assert files[0].name in wrong["unreadable"] and files[1].name in wrong["unreadable"]
    assert "1 image not of 160x120 pixels: 1 of 80x60" in wrong["size"]
    assert files[2].name in wrong["blank"] and files[3].name in wrong["blank"]
    assert "1 image stored more than once" in wrong["copies"] and files[4].name in wrong["copies"]
    assert audit.format_findings(list(found.values()))[-1] == "NOT OK: 5 things to put right"
    assert not findings(root, allow_missing=True)["missing"].wrong


def test_a_look_alike_across_the_border_is_found_and_one_within_training_is_no_matter(copy):
    root, _ = copy
    table = datasets.load_images("demo", root)
    manifest = protocols.build(table, "own", "dorsal_r", validation="none")
    source, within, across = (*manifest.train["path"].iloc[:2], manifest.test["path"].iloc[0])
    ImageEnhance.Brightness(Image.open(root / source).resize((200, 150))).enhance(0.9).save(root / within, quality=60)
    assert "near-duplicates" not in findings(root)
    ImageEnhance.Brightness(Image.open(root / source).resize((140, 105))).enhance(1.1).save(root / across, quality=60)
    text = findings(root)["near-duplicates"].text
    assert source in text and across in text


def test_near_pairs_agree_with_counting_bits():
    random = np.random.default_rng(1)
    marks = random.integers(0, 256, (40, 32), dtype=np.uint8)
    marks[20:] = marks[:20] ^ (random.random((20, 32)) < 0.1)  # a few bits off
    seen = pd.DataFrame(
        {"path": [str(i) for i in range(40)], "problem": "", "fingerprint": [m.tobytes() for m in marks]}
    )
    pairs = inspection.find_pairs(seen[:20], seen[20:])
    plain = {(str(i), str(j)): int(np.unpackbits(marks[i] ^ marks[j]).sum()) for i in range(20) for j in range(20, 40)}
    assert {(row.left, row.right): row.bits for row in pairs.itertuples()} == {
        pair: bits for pair, bits in plain.items() if bits <= inspection.NEAR
    }
    assert len(pairs) >= 20 and pairs["bits"].is_monotonic_increasing
    assert inspection.find_pairs(seen[:0], seen).empty


@pytest.fixture(scope="module")
def metadata(real_hands):
    table = contract.check_table(eleven_k.read_metadata(real_hands, burst_gap=10), real_hands)
    table.attrs["dataset"] = "11k"
    return table


def test_the_real_metadata_has_the_published_counts_and_own_other_hands(metadata):
    assert audit.count_images(metadata, eleven_k.SUMMARY).eval("found == expected").all()
    manifest = protocols.build(metadata, "mba", "dorsal_r", validation="published")
    numbers = audit.count_parts(manifest, "dorsal_r", eleven_k.SUMMARY)
    known = numbers.dropna()
    assert len(known) == 5 and (known["images"] == known["published images"]).all()
    assert (known["people"] == known["published people"]).all()
    unseen = pd.DataFrame({"path": metadata["path"], "problem": "not opened", "fingerprint": b""})
    found = {
        each.about: each.text for each in audit.judge_protocol(manifest, "dorsal_r", metadata, unseen, eleven_k.SUMMARY)
    }
    assert "56 of 71 test people have their own other hand" in found["mirrored hands"]
    assert "71 have some other view" in found["mirrored hands"]
    assert "protocol" not in found
    fewer = protocols.build(metadata.drop(index=metadata.index[5]), "mba", "dorsal_r", validation="published")
    found = audit.judge_protocol(fewer, "dorsal_r", metadata, unseen, eleven_k.SUMMARY)
    assert "differ from the published counts" in found[0].text and found[0].wrong
    found = audit.judge_protocol(fewer, "dorsal_r", metadata[1:], unseen, eleven_k.SUMMARY)
    assert found[0].about != "protocol"  # a partial download cannot have them
    other = protocols.build(metadata, "mba", "dorsal_r", validation="identity_disjoint")
    assert audit.judge_protocol(other, "dorsal_r", metadata, unseen, eleven_k.SUMMARY)[0].about != "protocol"


def test_the_real_piece_is_audited_as_the_partial_download_it_is(real_hands, capsys):
    assert main(["data", "check", "--dataset", "11k", "--root", str(real_hands), "--allow-missing"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "10,049" in line]
    told = r"note   missing: 10,049 of 11,076 images are absent: (Hands/Hand_\d+.jpg(, )?){3} and 10,046 more"
    assert re.fullmatch(told, line)
    assert [line for line in lines if line.startswith("WRONG")] == [
        "WRONG  size: 1,027 images not of 1600x1200 pixels: 1,027 of 100x100"
    ]
    assert lines[-1] == "NOT OK: 1 thing to put right"
    assert main(["data", "check", "--dataset", "11k", "--root", str(real_hands), "--aspect", "palmar_r"]) == 1
    out = capsys.readouterr().out
    assert "WRONG  missing: 10,049 of 11,076 images are absent" in out
    assert "palmar_r under mba" in out and "dorsal_r under mba" not in out


def test_the_check_ends_with_ok_and_tells_mistakes_in_one_line(hands, tmp_path, capsys):
    check = ["data", "check", "--dataset"]
    assert main([*check, "demo", "--root", str(hands)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "OK"
    (tmp_path / "ann").mkdir()
    for arguments, message in (
        (["demo", "--root", "/nowhere"], "/nowhere is not a folder"),
        (["lfw"], "'lfw' is unknown; allowed: demo, 11k"),
        (["hd"], "given out on request"),
        (["folder", "--root", str(tmp_path)], "ann: holds no image"),
        (["demo", "--root", str(hands), "--aspect", "dorsal"], "--aspect dorsal: unknown; allowed: dorsal_l"),
        (["demo", "--root", str(hands), "--protocol", "mbs"], "--protocol mbs: unknown; allowed: own"),
    ):
        assert main([*check, *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_a_protocol_that_fits_nothing_is_wrong_and_hides_no_other_finding(hands, copy, capsys):
    check = ["data", "check", "--dataset", "demo", "--protocol", "cross_session", "--burst-gap", "10000", "--root"]
    assert main([*check, str(hands)]) == 1
    assert "WRONG  protocol: cross_session can be applied to no aspect there is" in capsys.readouterr().out
    root, files = copy
    files[0].write_text("no picture")
    assert main([*check[:4], "--protocol", "given", "--root", str(root)]) == 1
    out = capsys.readouterr().out
    assert "given needs a split column" in out and files[0].name in out


def test_a_test_of_one_person_is_told(tmp_path, capsys):
    for person in range(3):
        for shot in range(2):
            (tmp_path / str(person)).mkdir(exist_ok=True)
            Image.effect_noise((32, 32), 80 + 10 * person).save(tmp_path / str(person) / f"{shot}.png")
    assert main(["data", "check", "--dataset", "folder", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "too few people of 'hand' for a test: a gallery shows one person alone" in out
    assert "WRONG  protocol: own can be applied to no aspect there is" in out


def test_people_of_a_folder_are_told_by_their_names(hands, tmp_path, capsys):
    table = datasets.load_images("demo", hands)
    for name, (_, rows) in zip("ABCDEF", table[table["aspect"] == "dorsal_r"].groupby("identity"), strict=False):
        (tmp_path / f"Ms {name}").mkdir()
        for path in rows["path"].head(1 if name in "AB" else 3):
            shutil.copy(hands / path, tmp_path / f"Ms {name}")
    main(["data", "check", "--dataset", "folder", "--root", str(tmp_path)])
    out = capsys.readouterr().out
    assert "with a single image" in out and "Ms A" in out and "Ms B" in out
