"""Takes steps over one SMB connection with smbprotocol: smbprotocol_steps.py SERVER PORT SHARE PASSWORD STEP...

"open USER SNAPSHOT NAME" opens a file in the user's session, from a snapshot such as @GMT-2026.01.02-03.04.05 unless that is "-".
"read FILE OFFSET LENGTH USER TREE" reads of the file opened as number FILE, from 0, in the session of USER over the tree of TREE.
Each step prints the server's status, in hexadecimal, and for a read that succeeded SHA-256 of the bytes.
"""

import datetime
import hashlib
import sys
import uuid

from smbprotocol.connection import Connection
from smbprotocol.create_contexts import CreateContextName, SMB2CreateContextRequest, SMB2CreateTimewarpToken
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

PIECE = 1 << 16

server, port, share, password, *steps = sys.argv[1:]
connection = Connection(uuid.uuid4(), server, int(port))
connection.connect()
trees = {}
files = []


def tree(user):
    if user not in trees:
        session = Session(connection, user, password, require_encryption=False, auth_protocol="ntlm")
        session.connect()
        trees[user] = TreeConnect(session, rf"\\{server}\{share}")
        trees[user].connect()
    return trees[user]


def of_snapshot(snapshot):
    token = SMB2CreateTimewarpToken()
    token["timestamp"] = datetime.datetime.strptime(snapshot, "@GMT-%Y.%m.%d-%H.%M.%S")
    context = SMB2CreateContextRequest()
    context["buffer_name"] = CreateContextName.SMB2_CREATE_TIMEWARP_TOKEN
    context["buffer_data"] = token
    return context


def open_file(user, snapshot, name):
    file = Open(tree(user), name)
    files.append(file)
    file.create(
        ImpersonationLevel.Impersonation,
        FilePipePrinterAccessMask.FILE_READ_DATA,
        0,
        ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE,
        CreateDisposition.FILE_OPEN,
        CreateOptions.FILE_NON_DIRECTORY_FILE,
        None if snapshot == "-" else [of_snapshot(snapshot)],
    )


def read_file(number, offset, length, user, over):
    file, end, hasher = files[int(number)], int(offset) + int(length), hashlib.sha256()
    session, tid = tree(user).session, tree(over).tree_connect_id
    # The library looks for the tree among the session's own.
    session.tree_connect_table.setdefault(tid, tree(over))
    for at in range(int(offset), end, PIECE):
        request, response = file.read(at, min(PIECE, end - at), send=False)
        hasher.update(response(connection.send(request, session.session_id, tid)))
    return hasher.hexdigest()


for step in steps:
    verb, *words = step.split()
    try:
        print("00000000", {"open": open_file, "read": read_file}[verb](*words) or "")
    except SMBResponseException as error:
        print(f"{error.status:08x}")
connection.disconnect(close=False)
