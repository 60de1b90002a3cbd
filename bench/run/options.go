package run

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"time"
)

// Options are those of every benchmark. The zero value of none is useful; Parse makes them.
type Options struct {
	// Out is the folder of the report and the profiles.
	Out string
	// Version is the program's under test.
	Version string
	// Rounds, ≥ 1, is how often each contender has its turn in each case; Turn, ≥ 1 s, is how long that is.
	Rounds int
	Turn   time.Duration
	// Only matches the names of the cases that are measured.
	Only *regexp.Regexp
	// As names a run of its own, whose report stands beside that of the whole part; "" is the whole.
	As string
}

// named is what may stand in the name of a file.
var named = regexp.MustCompile(`^[a-z-]*$`)

// Wanted says whether a case is measured.
func (o *Options) Wanted(name string) bool { return o.Only.MatchString(name) }

// Parse reads the flags of make bench-<part>: the common ones, and what own adds. BENCH_SECONDS, from the environment,
// is the length of a turn that no flag sets. A flag that is wrong is flag.ErrHelp, and has been explained on stderr.
func Parse(part string, args []string, getenv func(string) string, stderr io.Writer, own func(*flag.FlagSet)) (Options, error) {
	o := Options{}
	flags := flag.NewFlagSet("bench-"+part, flag.ContinueOnError)
	flags.SetOutput(stderr)
	turn := "3s"
	if seconds := getenv("BENCH_SECONDS"); seconds != "" {
		turn = seconds + "s"
	}
	length, err := time.ParseDuration(turn)
	if err != nil {
		return o, fmt.Errorf("BENCH_SECONDS must be a number of seconds: %w", err)
	}
	only := ""
	flags.StringVar(&o.Out, "out", "out/bench", "`folder` of the report and the profiles")
	flags.StringVar(&o.Version, "version", "devel", "`version` of the program under test")
	flags.IntVar(&o.Rounds, "rounds", 5, "how often each contender has its turn in each case")
	flags.DurationVar(&o.Turn, "turn", length, "how long a turn is")
	flags.StringVar(&only, "only", "", "measure only the cases whose name matches the `expression`")
	flags.StringVar(&o.As, "as", "", "`name` of a run of its own, whose report is recorded beside that of the whole part")
	own(flags)
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	if o.Rounds < 1 || o.Turn < time.Second {
		return o, errors.New("rounds must be ≥ 1, a turn ≥ 1s")
	}
	if !named.MatchString(o.As) {
		return o, fmt.Errorf("-as must be letters and hyphens, got %q", o.As)
	}
	if o.Only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("compiling -only: %w", err)
	}
	return o, nil
}
