#!/usr/bin/env bash
# bubblewrap 0.8.0 (Debian 0.8.0-2+deb12u1): --ro-bind-fd takes an open descriptor, and still looks its path up as the calling
# user. A file that the caller has open, below a folder that the caller may not enter, can't be bound; with the folder open to
# all the same call works. Who gives a jail a program by descriptor must see to the folders, or to a mount, all the same.
#
# Seen:  below 0700: exit 1, "bwrap: Can't find source path /proc/self/fd/9: Permission denied"
#        below 0755: exit 0
# Takes root on Debian 12 (it calls bubblewrap as another user), and setpriv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download -qq bubblewrap=0.8.0-2+deb12u1 2>/dev/null
dpkg-deb --extract bubblewrap_*.deb bubblewrap
mkdir closed
echo content >closed/file
chmod 644 closed/file

bind() { # mode of the folder
  chmod "$1" closed
  setpriv --reuid 65533 --regid 65533 --clear-groups \
    "$folder/bubblewrap/usr/bin/bwrap" --unshare-all --ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --ro-bind-fd 9 /content /usr/bin/cat /content 9<closed/file 2>&1
}

open=$(bind 755)
closed=$(bind 700) && { echo "it is bound by now: $closed"; exit 1; }
echo "below 0755: $open"
echo "below 0700: $closed"
[ "$open" = content ] && [[ $closed == *"/proc/self/fd/9: Permission denied"* ]]
