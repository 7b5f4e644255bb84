"""An S3 server that generates its listings: a bucket of millions of objects that needs no memory.

    python -m tests.stores.listed_bucket NUM_SHARDS    prints its address, serves until it is killed

Below ``in/`` it lists NUM_SHARDS tars. Below ``out/`` it lists tar, Parquet file and marker of the
first shards; the content of ``/bucket/done`` is their number. Other objects are stored, also by
multipart uploads (s3fs uses them for objects above 100 MB). It answers like S3, with pages of a
thousand keys as XML.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

PAGE = 1000
OUTPUTS = (".parquet", ".tar", "_stats.json")  # in the order of their bytes
ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T12:00:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>123456789</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)
LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
    "<Prefix>{prefix}</Prefix><MaxKeys>1000</MaxKeys>{more}{entries}</ListBucketResult>"
)
MULTIPART = (
    '<{what} xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>bucket</Bucket>'
    "<Key>{key}</Key>{more}</{what}>"
)
ERROR = "<Error><Code>{code}</Code><Message>{code}</Message></Error>"
MIN_PART_BYTES = 5 * 2**20  # of every part of an upload but the last


class Bucket(BaseHTTPRequestHandler):
    """Serves one bucket, named ``bucket``; its state is in the class."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # header and body in one packet
    num_shards = 0
    num_done = 0
    objects: dict[str, bytes] = {}  # noqa: RUF012 - there is only one server
    uploads: dict[str, dict[int, bytes]] = {}  # noqa: RUF012 - parts of open uploads, by id
    upload_ids = itertools.count()
    num_pages = 0

    def do_GET(self) -> None:
        query = self.query
        if "list-type" in query:
            self.answer(200, self.page(query.get("prefix", ""), query.get("continuation-token")))
        elif self.key == "pages":
            self.answer(200, str(Bucket.num_pages).encode())
        else:
            self.answer_object()

    def do_HEAD(self) -> None:
        self.answer_object()

    def do_PUT(self) -> None:
        body, upload = self.body(), self.query.get("uploadId")
        if upload is not None:
            if upload in self.uploads:
                self.uploads[upload][int(self.query["partNumber"])] = body
            self.answer(200 if upload in self.uploads else 404, b"", etag_of(body))
            return
        if self.headers.get("If-None-Match") == "*" and self.key in self.objects:
            self.answer(412, b"")
            return
        if self.key == "done":
            Bucket.num_done = int(body)
        else:
            self.objects[self.key] = body
        self.answer(200, b"")

    def do_POST(self) -> None:
        """Starts or completes a multipart upload."""
        body, key = self.body(), escape(self.key)
        if "uploads" in self.query:
            upload = str(next(self.upload_ids))
            self.uploads[upload] = {}
            what, more = "InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>"
        else:
            code = self.complete(self.query["uploadId"], body.decode())
            if code is not None:
                self.answer(400, ERROR.format(code=code).encode())
                return
            what, more = "CompleteMultipartUploadResult", "<ETag>&quot;0&quot;</ETag>"
        self.answer(200, MULTIPART.format(what=what, key=key, more=more).encode())

    def complete(self, upload: str, wanted: str) -> str | None:
        """Joins the parts that a request names into an object; returns S3's error code or None."""
        if upload not in self.uploads:
            return "NoSuchUpload"
        parts = self.uploads[upload]
        numbers = [int(number) for number in re.findall("<PartNumber>(.*?)</PartNumber>", wanted)]
        etags = [
            unescape(etag, {"&quot;": '"'}) for etag in re.findall("<ETag>(.*?)</ETag>", wanted)
        ]
        known = [(number, etag_of(parts[number])) for number in numbers if number in parts]
        if not numbers or known != list(zip(numbers, etags, strict=True)):
            return "InvalidPart"
        if numbers != sorted(numbers):
            return "InvalidPartOrder"
        if any(len(parts[number]) < MIN_PART_BYTES for number in numbers[:-1]):
            return "EntityTooSmall"
        self.objects[self.key] = b"".join(parts[number] for number in numbers)
        del self.uploads[upload]
        return None

    def do_DELETE(self) -> None:
        upload = self.query.get("uploadId")
        if upload is None:
            self.objects.pop(self.key, None)
        else:
            self.uploads.pop(upload, None)
        self.answer(204, b"")

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").removeprefix("/")

    def answer_object(self) -> None:
        if self.key == "":  # the bucket itself
            self.answer(200, b"")
        elif self.key in self.objects:
            self.answer(200, self.objects[self.key])
        else:
            self.answer(404, b"")

    def page(self, prefix: str, token: str | None) -> bytes:
        Bucket.num_pages += 1
        start = int(token or 0)
        num, keys = self.listed(prefix, start)
        entries = [ENTRY.format(key=escape(key), number=number) for key, number in keys]
        more = "<IsTruncated>false</IsTruncated>"
        if start + PAGE < num:
            more = (
                "<IsTruncated>true</IsTruncated>"
                f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>"
            )
        text = LISTING.format(prefix=escape(prefix), more=more, entries="".join(entries))
        return text.encode()

    def listed(self, prefix: str, start: int) -> tuple[int, Iterator[tuple[str, int]]]:
        """(number of keys with the prefix, the keys of one page with their numbers)."""
        if prefix == "in/":
            end = min(start + PAGE, self.num_shards)
            return self.num_shards, ((f"in/{n:07d}.tar", n) for n in range(start, end))
        others = sorted(key for key in self.objects if key.startswith(prefix))
        num = 3 * self.num_done if prefix == "out/" else 0
        numbers = range(start, min(start + PAGE, num + len(others)))
        return num + len(others), (
            (f"out/{n // 3:07d}{OUTPUTS[n % 3]}" if n < num else others[n - num], n)
            for n in numbers
        )

    def answer(self, status: int, body: bytes, etag: str = '"0"') -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *words: object) -> None:
        pass


def etag_of(part: bytes) -> str:
    return f'"{hashlib.md5(part).hexdigest()}"'


if __name__ == "__main__":
    Bucket.num_shards = int(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
