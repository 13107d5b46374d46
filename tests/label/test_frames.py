"""Pictures by index: always the right one, from a cache that stays small, whatever happens to the file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rallytrace.errors import InputError
from rallytrace.label.book import WrongState, open_book
from rallytrace.label.frames import RUN, FrameCache, FrameServer, FrameUnavailable, Source
from rallytrace.label.library import Library
from rallytrace.video import decode_jpeg, frame_table

from .sites import WH, clip, number_on, numbered, wait_for

N = 90


def source_of(path: Path, video_id: int = 1) -> Source:
    stat = path.stat()
    return Source(video_id, path, f"{video_id:064x}"[::-1], frame_table(path), stat.st_size, stat.st_mtime_ns)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FrameServer]:
    made = FrameServer(FrameCache(tmp_path / "cache"))
    yield made
    made.close()


def test_each_index_shows_its_own_frame_in_any_order(server: FrameServer) -> None:
    source = source_of(clip())
    for index in (0, 1, 2, 50, 49, 48, 89, 3, 33, 31, 32, 64, 63, 88):
        jpeg = server.jpeg(source, index)
        assert number_on(jpeg) == index
        assert decode_jpeg(jpeg).shape == (WH[1], WH[0], 3)


def test_one_request_makes_its_neighbours(server: FrameServer) -> None:
    source = source_of(clip())
    server.jpeg(source, 40)
    wait_for(lambda: all(server.cache.has(source.key(i)) for i in range(N)))
    assert all(number_on(server.cache.get(source.key(i)) or b"") == i for i in range(N))


def test_many_at_once_get_the_right_frames(server: FrameServer, tmp_path: Path) -> None:
    sources = [source_of(clip(), 1), source_of(shutil.copy2(clip(), tmp_path / "b.mp4"), 2)]
    places = [(source, index) for index in range(0, N, 2) for source in sources]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda place: number_on(server.jpeg(*place)), places))
    assert found == [index for _, index in places]


def test_small_pictures_come_in_a_few_sizes(server: FrameServer, tmp_path: Path) -> None:
    source = source_of(clip())
    for width, given in ((1, 160), (160, 160), (161, 320), (9999, 320), (None, 320)):
        jpeg = server.jpeg(source, 37, width)
        assert decode_jpeg(jpeg).shape == (given * WH[1] // WH[0], given, 3)
        assert number_on(jpeg) == 37
    assert {p.name for p in (tmp_path / "cache").rglob("37*")} == {"37.jpg", "37.w160.jpg"}


def test_beyond_the_last_frame(server: FrameServer) -> None:
    for index in (-1, N):
        with pytest.raises(IndexError, match="frames 0 to 89"):
            server.jpeg(source_of(clip()), index)


def test_a_file_that_goes_away_is_told_and_comes_back(server: FrameServer, tmp_path: Path) -> None:
    path = Path(shutil.copy2(clip(), tmp_path / "a.mp4"))
    source = source_of(path)
    away = path.rename(tmp_path / "away.mp4")
    with pytest.raises(FrameUnavailable, match="is gone"):
        server.jpeg(source, 5)
    away.rename(path)
    assert number_on(server.jpeg(source, 5)) == 5


def test_another_file_under_the_name_is_never_shown(server: FrameServer, tmp_path: Path) -> None:
    path = Path(shutil.copy2(clip(), tmp_path / "a.mp4"))
    source = source_of(path)
    numbered(path, 50)
    with pytest.raises(FrameUnavailable, match="has changed"):
        server.jpeg(source, 5)


def test_who_waits_when_the_server_ends_is_told(tmp_path: Path) -> None:
    server = FrameServer(FrameCache(tmp_path))
    source = source_of(clip())
    entered, leave = threading.Event(), threading.Event()

    class Slow(FrameCache):
        def put(self, key: str, data: bytes) -> None:
            entered.set()
            leave.wait(30)

    server.cache = Slow(tmp_path / "slow")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.jpeg, source, RUN * 2)
        assert entered.wait(30)
        later = pool.submit(server.close)
        leave.set()
        assert number_on(asked.result(30)) == RUN * 2  # a picture that cannot be kept is given all the same
        later.result(30)
    with pytest.raises(FrameUnavailable):
        server.jpeg(source, 0)


def test_the_cache_stays_within_its_bytes_and_drops_the_oldest(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 1000)
    jpeg = b"\xff\xd8" + bytes(196) + b"\xff\xd9"
    for n in range(5):
        cache.put(f"a/{n}.jpg", jpeg)
    assert cache.get("a/0.jpg") == jpeg  # used again: now 1 is the oldest
    cache.put("a/5.jpg", jpeg)
    assert cache.get("a/1.jpg") is None
    assert cache.total_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")) == 1000
    again = FrameCache(tmp_path, 1000)
    assert again.total_bytes == 1000
    again.put("a/6.jpg", jpeg)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")) == 1000


def test_half_a_file_in_the_cache_is_no_picture(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path)
    cache.put("a/1.jpg", b"\xff\xd8 whole \xff\xd9")
    (tmp_path / "a/1.jpg").write_bytes(b"\xff\xd8 wh")
    (tmp_path / "a/.2.jpg.77.partial").write_bytes(b"\xff\xd8")
    assert cache.get("a/1.jpg") is None
    assert cache.total_bytes == 0
    FrameCache(tmp_path)
    assert list(tmp_path.rglob("*.*")) == []


def test_a_cache_that_cannot_be_written_is_no_error(server: FrameServer, tmp_path: Path) -> None:
    (tmp_path / "cache" / source_of(clip()).sha256[:12]).write_text("a file where a folder should be")
    assert number_on(server.jpeg(source_of(clip()), 12)) == 12


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with open_book(tmp_path / "book.sqlite") as book:
        made = Library(book, tmp_path)
        yield made
        made.close()


def imported(library: Library, path: Path) -> int:
    (found,) = library.add(path)
    wait_for(lambda: library._book.video(found.id).state != "importing")
    return found.id


def test_import_reads_a_folder_once(library: Library, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy2(clip(), folder / "b.mp4")
    numbered(folder / "a.MP4", 20)
    (folder / "notes.txt").write_text("no video")
    for _ in range(2):
        assert [video.name for video in library.add(folder)] == ["a.MP4", "b.mp4"]
    wait_for(lambda: all(video.state == "ready" for video in library.videos()))
    a, b = library.videos()
    assert (a.n_frames, b.n_frames, b.w, b.h, b.rate) == (20, N, *WH, "30000/1001")
    assert b.sha256 == library.source(b.id).sha256
    assert library._book.frame_times(b.id)[30] == pytest.approx(1.001)


def test_what_is_no_video_fails_with_a_reason(library: Library, tmp_path: Path) -> None:
    (tmp_path / "junk.mp4").write_bytes(os.urandom(5000))
    video_id = imported(library, tmp_path / "junk.mp4")
    found = library.video(video_id)
    assert found.state == "failed"
    assert "cannot be opened as a video" in found.error
    with pytest.raises(WrongState, match="cannot be opened"):
        library.source(video_id)
    for path in (tmp_path / "none.mp4", tmp_path / "book.sqlite", "rtsp://camera/a.mp4"):
        with pytest.raises(InputError, match="expected"):
            library.add(path)


def test_a_video_that_disappears_is_missing_until_it_is_back(library: Library, tmp_path: Path) -> None:
    path = Path(shutil.copy2(clip(), tmp_path / "a.mp4"))
    video_id = imported(library, path)
    away = path.rename(tmp_path / "away.mp4")
    assert library.video(video_id).state == "missing"
    with pytest.raises(WrongState, match="is gone: put it back"):
        library.source(video_id)
    away.rename(path)
    assert library.video(video_id).state == "ready"
    assert library.source(video_id).path == path


def test_a_touched_file_is_read_again_and_another_one_refused(library: Library, tmp_path: Path) -> None:
    path = Path(shutil.copy2(clip(), tmp_path / "a.mp4"))
    video_id = imported(library, path)
    os.utime(path, ns=(1, 1))
    assert wait_for(lambda: (found := library.video(video_id)).state == "ready" and found)
    numbered(path, 30)
    library.forget(video_id)
    failed = wait_for(lambda: (found := library.video(video_id)).state == "failed" and found)
    assert "not the video that was imported first" in failed.error
    assert failed.n_frames == N


def test_an_import_cut_short_is_begun_again(tmp_path: Path) -> None:
    with open_book(tmp_path / "book.sqlite") as book:
        video_id = book.add_video("a.mp4", clip()).id  # as a killed server leaves it
        library = Library(book, tmp_path)
        wait_for(lambda: book.video(video_id).state == "ready")
        library.close()
        shutil.rmtree(tmp_path / "tables")
        library = Library(book, tmp_path)  # tables can be made again
        wait_for(lambda: book.video(video_id).state == "ready" and library._table_path(video_id).exists())
        assert len(library.source(video_id).table) == N
        library.close()
