package analysis

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// argPattern is how Argo's templates refer to an argument.
var argPattern = regexp.MustCompile(`\{\{\s*args\.([A-Za-z0-9_.-]+)\s*\}\}`)

// builtins are arguments that nobody needs to give: the cluster that is looked at.
var builtins = []string{"cluster"}

// builtin fills in the cluster's name, which is known only when it is asked.
func builtin(text, cluster string) string {
	return argPattern.ReplaceAllStringFunc(text, func(ref string) string {
		if argPattern.FindStringSubmatch(ref)[1] == "cluster" {
			return cluster
		}
		return ref
	})
}

// fill puts arguments into a text, and returns those that nobody gave.
func fill(text string, args map[string]string) (string, []string) {
	var missing []string
	filled := argPattern.ReplaceAllStringFunc(text, func(ref string) string {
		name := argPattern.FindStringSubmatch(ref)[1]
		if value, ok := args[name]; ok {
			return value
		}
		if !slices.Contains(builtins, name) {
			missing = append(missing, name)
		}
		return ref
	})
	return filled, missing
}

// Check reads templates, fills arguments in, and compiles every condition and query, so that what cannot work is refused with
// its field before anything moves. read reads a template's file, and those of headers: now, and at each measurement.
func Check(a v1alpha1.RolloutAnalysis, interval time.Duration, path *field.Path, read func(name string) ([]byte, error)) ([]Metric, field.ErrorList) {
	args := map[string]string{}
	for _, arg := range a.Args {
		args[arg.Name] = arg.Value
	}
	var errs field.ErrorList
	var all []Metric
	names := sets.New[string]()
	add := func(m v1alpha1.RolloutMetric, p *field.Path) {
		compiled, problems := compile(m, args, p, read)
		errs = append(errs, problems...)
		if names.Has(m.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), m.Name))
		}
		names.Insert(m.Name)
		all = append(all, compiled)
	}
	for i, m := range a.Metrics {
		add(m, path.Child("metrics").Index(i))
	}
	for i, name := range a.Templates {
		p := path.Child("templates").Index(i)
		data, err := read(name)
		if err != nil {
			errs = append(errs, field.Invalid(p, name, err.Error()))
			continue
		}
		metrics, problems := ParseTemplates(data, args, interval)
		for _, problem := range problems {
			problem.Field = p.String() + " (" + name + "): " + problem.Field
			errs = append(errs, problem)
		}
		if len(problems) > 0 {
			continue
		}
		for j, m := range metrics {
			add(m, field.NewPath(fmt.Sprintf("%s (%s): spec.metrics", p, name)).Index(j))
		}
	}
	return all, errs
}

// compile checks one metric; its arguments are filled in first, so that what is checked is what will be asked.
func compile(m v1alpha1.RolloutMetric, args map[string]string, path *field.Path, read func(name string) ([]byte, error)) (Metric, field.ErrorList) {
	var errs field.ErrorList
	put := func(text *string, p *field.Path) {
		filled, missing := fill(*text, args)
		for _, name := range missing {
			errs = append(errs, field.Invalid(p, *text, "nobody gives args."+name+": set it in analysis.args"))
		}
		*text = filled
	}
	condition := func(text *string, p *field.Path) *verdict.Condition {
		put(text, p)
		if *text == "" {
			return nil
		}
		c, err := verdict.ParseCondition(*text)
		if err != nil {
			first, _, _ := strings.Cut(err.Error(), "\n")
			errs = append(errs, field.Invalid(p, *text, first))
		}
		return c
	}
	out := Metric{Spec: m, read: read}
	putHeaders := func(headers []v1alpha1.RolloutHeader, p *field.Path) {
		for i := range headers {
			filled, missing := fill(headers[i].Value, args)
			for _, name := range missing { // without the value, which is a secret more often than not
				errs = append(errs, field.Invalid(p.Index(i).Child("value"), field.OmitValueType{}, "nobody gives args."+name+": set it in analysis.args"))
			}
			headers[i].Value = filled
		}
		if _, err := out.withValues(headers); err != nil {
			errs = append(errs, field.Invalid(p, field.OmitValueType{}, err.Error()))
		}
	}
	out.conditions.Success = condition(&out.Spec.SuccessCondition, path.Child("successCondition"))
	out.conditions.Failure = condition(&out.Spec.FailureCondition, path.Child("failureCondition"))
	if p := m.Provider.Prometheus; p != nil {
		filled := *p
		filled.Headers = slices.Clone(p.Headers)
		out.Spec.Provider.Prometheus = &filled
		at := path.Child("provider", "prometheus")
		put(&filled.Address, at.Child("address"))
		put(&filled.Query, at.Child("query"))
		putHeaders(filled.Headers, at.Child("headers"))
		if err := checkQuery(builtin(filled.Query, "x"), m.Compare != nil); err != nil {
			errs = append(errs, field.Invalid(at.Child("query"), filled.Query, err.Error()))
		}
	}
	if w := m.Provider.Web; w != nil {
		filled := *w
		filled.Headers = slices.Clone(w.Headers)
		out.Spec.Provider.Web = &filled
		at := path.Child("provider", "web")
		put(&filled.URL, at.Child("url"))
		put(&filled.Body, at.Child("body"))
		put(&filled.JSONPath, at.Child("jsonPath"))
		putHeaders(filled.Headers, at.Child("headers"))
		if filled.JSONPath != "" {
			out.path = jsonpath.New("metric")
			if err := out.path.Parse(filled.JSONPath); err != nil {
				errs = append(errs, field.Invalid(at.Child("jsonPath"), filled.JSONPath, err.Error()))
			}
		}
	}
	return out, errs
}

// promql is Prometheus' own parser, without what is experimental.
var promql = parser.NewParser(parser.Options{})

// checkQuery refuses what Prometheus would refuse, and what has a result that no condition can be applied to.
func checkQuery(query string, compared bool) error {
	expression, err := promql.ParseExpr(query)
	if err != nil {
		return err
	}
	switch kind := expression.Type(); {
	case kind == parser.ValueTypeVector, kind == parser.ValueTypeScalar && !compared:
		return nil
	case compared:
		return fmt.Errorf("its result is a %s: to be compared it must be an instant vector", kind)
	default:
		return fmt.Errorf("its result is a %s: it must be a scalar or an instant vector", kind)
	}
}
