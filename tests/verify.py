#!/usr/bin/env python3
"""A second opinion on a log of jit-broker: verify.py EXPORT --key LOG.pub [--witness NOTE]... or verify.py RECEIPT --key LOG.pub

Written from the formats alone, with nothing but the standard library (and ssh-keygen, for signatures other than Ed25519): RFC 6962, C2SP
signed-note, tlog-checkpoint and tlog-proof, PROTOCOL.sshsig. It checks the tree, the checkpoints, every person's signature, serials and
windows. It does not run the rules of policy again: `jit-broker audit verify` does. Exit status: 0 good, 1 problems, 11 good, but the end of
the log is attested by no note of --witness.
"""
import base64, hashlib, json, subprocess, sys, tempfile

P, L, D = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493, -121665 * pow(121666, -1, 2**255 - 19)
problems = []


def say(what):
    problems.append(what)


def recover(y, sign):
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    x = x if (x * x - x2) % P == 0 else x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - x2) % P or (x == 0 and sign):
        raise ValueError("not a point")
    return P - x if x & 1 != sign else x


def point(b):
    n = int.from_bytes(b, "little")
    y = n & (2**255 - 1)
    x = recover(y, n >> 255)
    return x, y, 1, x * y % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def mul(s, p):
    q = (0, 1, 1, 0)
    while s:
        q, p, s = add(q, p) if s & 1 else q, add(p, p), s >> 1
    return q


BASE = 4 * pow(5, -1, P) % P
BASE = (recover(BASE, 0), BASE, 1, recover(BASE, 0) * BASE % P)


def ed25519(key, message, sig):  # RFC 8032, section 5.1.7
    try:
        s = int.from_bytes(sig[32:], "little")
        k = int.from_bytes(hashlib.sha512(sig[:32] + key + message).digest(), "little") % L
        left, right = mul(s, BASE), add(point(sig[:32]), mul(k, point(key)))
        return len(sig) == 64 and s < L and all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))
    except ValueError:
        return False


def b64(text):
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 in another form")
    return data


def refuse(text):
    raise ValueError("not an integer: " + text)


def dump(value, sort=False):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=sort).encode()


def load(data, sort=False):  # only what would be written the same way again
    value = json.loads(data.decode(), parse_float=refuse, parse_constant=refuse)
    if dump(value, sort) != data:
        raise ValueError("JSON in another form")
    return value


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaf_hash(data):
    return hashlib.sha256(b"\x00" + data).digest()


class Tree:
    def __init__(self):
        self.size, self.nodes = 0, []

    def push(self, h):
        n = self.size
        while n & 1:
            h, n = node(self.nodes.pop(), h), n >> 1
        self.nodes.append(h)
        self.size += 1

    def root(self):
        nodes = list(reversed(self.nodes))
        if not nodes:
            return hashlib.sha256(b"").digest()
        h = nodes[0]
        for left in nodes[1:]:
            h = node(left, h)
        return h


def included(h, seq, size, proof):  # RFC 9162, section 2.1.3.2; the root, or nothing
    last = size - 1
    for p in proof:
        if last == 0:
            return None
        if seq & 1 or seq == last:
            h = node(p, h)
            while not seq & 1 and seq:
                seq, last = seq >> 1, last >> 1
        else:
            h = node(h, p)
        seq, last = seq >> 1, last >> 1
    return h if last == 0 else None


def note(text, log, key):  # C2SP signed-note and tlog-checkpoint: size, root, and the epoch at the end of the origin
    body, _, lines = text.rpartition("\n\n")
    origin = body.split("\n")[0]
    epoch = origin.removeprefix(log + "/e")
    if not epoch.isascii() or not epoch.isdigit() or str(int(epoch)) != epoch:
        raise ValueError("not a checkpoint of this log")
    own = hashlib.sha256(origin.encode() + b"\n\x01" + key).digest()[:4]
    good = False
    if not lines.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise ValueError("not a note")
    for line in lines[:-1].split("\n"):
        mark, name, sig = line.split(" ")
        sig = b64(sig)
        if mark != "\u2014" or len(sig) < 5 or not name or "+" in name:
            raise ValueError("not a signature line")
        if name == origin and sig[:4] == own:
            good = ed25519(key, (body + "\n").encode(), sig[4:])
            if not good:
                raise ValueError("bad signature")
    name, size, root = body.split("\n")
    if not good or name != origin or str(int(size)) != size or len(b64(root)) != 32:
        raise ValueError("not a checkpoint of this log by this key")
    return int(size), b64(root), int(epoch)


def strings(data):
    out = []
    while data:
        n = int.from_bytes(data[:4], "big")
        if len(data) < 4 + n:
            raise ValueError("cut short")
        out.append(data[4 : 4 + n])
        data = data[4 + n :]
    return out


def signed(act, armored, install):  # PROTOCOL.sshsig; what a person signed
    deed = load(act.encode(), sort=True)
    space = b"login@jit-broker" if deed["act"] == "login" else b"act@jit-broker"
    blob = base64.b64decode("".join(line for line in armored.split("\n") if line and line[0] != "-"))
    key, ns, reserved, algorithm, sig = strings(blob[10:])
    fp = "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if blob[:10] != b"SSHSIG\0\0\0\1" or ns != space or fp != deed["key_fp"] or deed["install"] != install:
        raise ValueError("signed for something else, or by another key")
    kind, value = strings(sig)[:2]
    if strings(key)[0] == b"ssh-ed25519":
        digest = hashlib.new(algorithm.decode(), act.encode()).digest()
        what = b"SSHSIG" + b"".join(len(s).to_bytes(4, "big") + s for s in (ns, reserved, algorithm, digest))
        if kind != b"ssh-ed25519" or not ed25519(strings(key)[1], what, value):
            raise ValueError("bad signature")
    else:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(armored)
            file.flush()
            check = ["ssh-keygen", "-Y", "check-novalidate", "-n", space.decode(), "-s", file.name]
            if subprocess.run(check, input=act.encode(), capture_output=True).returncode:
                raise ValueError("bad signature")
    return deed


class Entries:
    def __init__(self):
        self.install, self.last, self.serials, self.ends, self.named = None, 0, set(), {}, {}
        self.epochs = []

    def take(self, seq, data):
        entry = load(data, sort=True)
        event, cause = entry["event"], entry.get("cause", {})
        kind = event["kind"]
        if entry["seq"] != seq or entry["at"] < self.last:
            raise ValueError("another place or time than it must have")
        self.last = entry["at"]
        if seq == 0:
            self.install = event["install"]
        if cause.get("command") in ("act", "act_by_wall"):
            said = cause.get("signed", cause)
            deed = signed(said["act"], said["signature"], self.install)
            by = event.get("by") or event.get("person")
            if kind in ("request.submitted", "request.step_approved") and deed.get("by") != by:
                raise ValueError("it is not by whoever signed it")
            if kind == "request.step_approved" and deed["terms"] != event["terms"]:
                raise ValueError("other terms than were signed")
        if kind == "grant.opened":
            self.ends[event["grant"]] = event["ends_at"]
            if event["ends_at"] - event["starts_at"] != event["terms"]["for_s"]:
                raise ValueError("another window than was agreed")
        if kind == "credential.issued":
            serial = (event.get("credential", "ssh-user"), event["serial"])
            if serial in self.serials or event["valid_before"] > self.ends.get(event["grant"], 0):
                raise ValueError("a serial twice, or outside the window of its grant")
            self.serials.add(serial)
        if kind == "bundle.adopted":
            self.named[event["bundle"]] = seq
        if kind == "epoch.begun":  # founded on signed checkpoints; of those before, more than was kept is lost, for ever
            self.epochs.append((seq, event["new"]))


def export(path, key, witnesses):
    tree, entries, roots, blobs, notes, header = Tree(), Entries(), {}, {}, [], None
    keys = (["format", "version", "size"], ["seq", "leaf"], ["blob", "bytes", "keep"], ["checkpoint", "size"])
    with open(path, "rb") as file:
        for number, raw in enumerate(file):
            try:
                line = load(raw[:-1] if raw.endswith(b"\n") else refuse("the end"))
                if list(line) not in keys or ("format" in line) != (number == 0):
                    raise ValueError("not a line of an export, or not here")
                if "format" in line:
                    header = line["size"]
                    if (line["format"], line["version"]) != ("jit-broker-ledger", 1):
                        raise ValueError("another format")
                elif "leaf" in line:
                    data, seq = b64(line["leaf"]), tree.size
                    tree.push(leaf_hash(data))
                    roots[tree.size] = tree.root()
                    if line["seq"] != seq:
                        raise ValueError("expected leaf %d" % seq)
                    entries.take(seq, data)
                elif "blob" in line:
                    if hashlib.sha256(b64(line["bytes"])).hexdigest() != line["blob"]:
                        raise ValueError("another blob")
                    blobs[line["blob"]] = {"required": True, "shreddable": False}[line["keep"]]
                else:
                    notes.append((line["checkpoint"], line["size"]))
            except Exception as error:  # whatever is wrong with a line is a problem of the log
                say("line %d: %s %s" % (number + 1, type(error).__name__, error))
    if header != tree.size or not tree.size:
        say("the header says %s entries, there are %d" % (header, tree.size))
    log = "jit-broker/audit/%s" % entries.install
    for seq, new in entries.epochs:
        for quoted in [new["kept"]] + ([new["seen"]] if "seen" in new else []):
            try:
                if note(quoted["note"], log, key) != (quoted["size"], bytes.fromhex(quoted["root"]), quoted["epoch"]):
                    raise ValueError("another checkpoint than it says")
            except Exception as error:
                say("entry %d: the epoch is founded on what nobody signed: %s" % (seq, error))
    for digest, seq in entries.named.items():
        if not blobs.get(digest):
            say("entry %d: bundle %s is missing, or may be deleted" % (seq, digest))
    newest, attested, seen = 0, 0, {}
    for text, column in notes + [(text, None) for text in witnesses]:
        try:
            size, root, epoch = note(text, log, key)
            if column not in (size, None):
                raise ValueError("filed under another size")
            if column is None and seen.setdefault((epoch, size), root) != root:
                raise ValueError("two roots for one size")
            if roots.get(size) != root and (size or root != Tree().root()):
                if column is None and any(epoch < new["epoch"] and size > new["kept"]["size"] for _, new in entries.epochs):
                    print("note: a checkpoint of %d entries; the last of them were lost before a new epoch" % size)
                    continue
                raise ValueError("the log is not the one that was signed at %d" % size)
            newest, attested = (max(newest, size), attested) if column is not None else (newest, max(attested, size))
        except Exception as error:
            say("checkpoint: %s" % error)
    if newest != tree.size:
        say("the newest checkpoint is of %d entries, there are %d" % (newest, tree.size))
    return tree.size, attested == tree.size


def receipt(doc, key):
    entries, last, seen = Entries(), -1, set()
    log = "jit-broker/audit/%s" % doc["install"]
    for proven in doc["entries"]:
        head, _, text = proven["proof"].partition("\n\n")
        first, index, *hashes = head.split("\n")
        seq, (size, root, _) = int(index.removeprefix("index ")), note(text, log, key)
        data = proven["entry"].encode()
        if first != "c2sp.org/tlog-proof@v1" or included(leaf_hash(data), seq, size, [b64(h) for h in hashes]) != root:
            say("entry %d is not in the log" % seq)
        if seq <= last or (last < 0 and seq):
            say("entry %d is out of order, or the first one is missing" % seq)
        last = seq
        seen.add(text)
        entries.take(seq, data)
    for digest, text in doc["texts"].items():
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            say("text %s is another one" % digest)
    if not doc["about"].startswith("host-") and not any(doc["about"] in proven["entry"] for proven in doc["entries"]):
        say("nothing in it is about %s" % doc["about"])
    if entries.install != doc["install"] or len(seen) != 1 or doc["schema"] != "jit-broker/receipt/v1":
        say("another installation, schema, or several checkpoints")
    return last + 1, True


def main(args):
    files, key, witnesses = [], None, []
    while args:
        arg = args.pop(0)
        if arg == "--key":
            key = strings(base64.b64decode(open(args.pop(0)).read().split()[1]))[1]
        elif arg == "--witness":
            witnesses.append(open(args.pop(0), encoding="utf-8", errors="replace").read())
        else:
            files.append(arg)
    if len(files) != 1 or key is None:
        print(__doc__)
        return 2
    start = open(files[0], "rb").read(2048)
    if b'"about"' in start:
        try:
            size, attested = receipt(json.load(open(files[0], encoding="utf-8")), key)
        except Exception as error:
            say("%s %s" % (type(error).__name__, error))
            size, attested = 0, False
    else:
        size, attested = export(files[0], key, witnesses)
    for problem in problems:
        print("FAIL " + ascii(problem)[1:-1])
    print("%s: %d entries" % ("FAILED" if problems else "ok" if attested else "ok, but attested by nobody outside", size))
    return 1 if problems else 0 if attested else 11


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
