package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CheckPrivate says whether somebody else than this process's user and root could read the key at path, or put another
// in its place. Links are followed: what counts is the file they lead to, and the folders of both.
//
// The mode's bits are enough: where a file has an access list, its group bits are the most that any entry of the list
// grants (acl(5)).
func CheckPrivate(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("must be readable by its owner only (chmod 600), is %04o: whoever reads it can do what its owner can", perm)
	}
	var stat unix.Stat_t
	if err := unix.Stat(target, &stat); err != nil {
		return err
	}
	if self := os.Geteuid(); stat.Uid != 0 && int64(stat.Uid) != int64(self) {
		return fmt.Errorf("must belong to the user that runs the gate (uid %d) or to root, belongs to uid %d: whoever owns it can read and replace it", self, stat.Uid)
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(target)} {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		// In a sticky folder, as the kubelet mounts secrets in, only a file's owner can replace it.
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("must lie in a folder that not everybody may write: %s is %04o, so anyone can replace the key", dir, info.Mode().Perm())
		}
	}
	return nil
}
