package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckPrivate(t *testing.T) {
	key := func(t *testing.T, dirMode, mode os.FileMode) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "keys")
		must(t, os.Mkdir(dir, 0o700))
		path := filepath.Join(dir, "proxy.key")
		must(t, os.WriteFile(path, []byte("key"), 0o600))
		must(t, os.Chmod(path, mode))
		must(t, os.Chmod(dir, dirMode))
		return path
	}
	for name, test := range map[string]struct {
		path func(t *testing.T) string
		want string
	}{
		"good":                                 {func(t *testing.T) string { return key(t, 0o755, 0o600) }, ""},
		"read-only":                            {func(t *testing.T) string { return key(t, 0o755, 0o400) }, ""},
		"readable by a group":                  {func(t *testing.T) string { return key(t, 0o755, 0o640) }, "chmod 600"},
		"readable by all":                      {func(t *testing.T) string { return key(t, 0o755, 0o604) }, "chmod 600"},
		"replaceable by all":                   {func(t *testing.T) string { return key(t, 0o777, 0o600) }, "anyone can replace"},
		"in a sticky folder":                   {func(t *testing.T) string { return key(t, os.ModeSticky|0o777, 0o600) }, ""},
		"not there":                            {func(t *testing.T) string { return filepath.Join(t.TempDir(), "key") }, "no such file"},
		"a link to a good one":                 {func(t *testing.T) string { return link(t, key(t, 0o755, 0o600), 0o755) }, ""},
		"a link to a bad one":                  {func(t *testing.T) string { return link(t, key(t, 0o755, 0o644), 0o755) }, "chmod 600"},
		"a link to a good one in a bad folder": {func(t *testing.T) string { return link(t, key(t, 0o777, 0o600), 0o755) }, "anyone can replace"},
		"a link that anyone can replace":       {func(t *testing.T) string { return link(t, key(t, 0o755, 0o600), 0o777) }, "anyone can replace"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckPrivate(test.path(t))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func link(t *testing.T, to string, dirMode os.FileMode) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "links")
	must(t, os.Mkdir(dir, 0o700))
	name := filepath.Join(dir, "link")
	must(t, os.Symlink(to, name))
	must(t, os.Chmod(dir, dirMode))
	return name
}

// Only root can give a file away, and only then is there another owner to refuse.
func TestCheckPrivateOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.key")
	must(t, os.WriteFile(path, []byte("key"), 0o600))
	err := os.Chown(path, 65534, -1)
	if os.Geteuid() != 0 {
		if err == nil {
			t.Error("an ordinary user gave a file away")
		}
		return
	}
	must(t, err)
	if err := CheckPrivate(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("a key of another user: %v", err)
	}
}
