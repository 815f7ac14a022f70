"""Reads a file over SMB with smbprotocol: smbprotocol_get.py SERVER PORT SHARE NAME USER PASSWORD OUTPUT."""

import sys

import smbclient
import smbclient.shutil

server, port, share, name, user, password, output = sys.argv[1:]
account = {"username": user, "password": password, "port": int(port)}
smbclient.shutil.copyfile(rf"\\{server}\{share}\{name}", output, **account)
smbclient.delete_session(server, port=int(port))
