package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// metric is one declared metric.
type metric struct {
	name, kind, help string
	labels           []string
	folder           string
}

// prometheusPath is the package whose constructors declare metrics.
const prometheusPath = "github.com/prometheus/client_golang/prometheus"

// kinds maps constructors, without "New", "Vec" and "Func", to the type of the metric.
var kinds = map[string]string{"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Summary": "summary"}

// collect reads every package under root but the nested modules and testdata. It returns all it could not read in one
// error.
func collect(root string) ([]metric, error) {
	files := map[string][]string{} // by folder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || rel == "tools" || rel == "bin" || rel == "out") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files[filepath.Dir(path)] = append(files[filepath.Dir(path)], path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var metrics []metric
	var errs []error
	for folder, paths := range files {
		found, err := collectPackage(paths)
		if err != nil {
			errs = append(errs, err)
		}
		rel, _ := filepath.Rel(root, folder)
		for _, m := range found {
			m.folder = filepath.ToSlash(rel)
			metrics = append(metrics, m)
		}
	}
	slices.SortFunc(metrics, func(a, b metric) int {
		return strings.Compare(a.folder+" "+a.name, b.folder+" "+b.name)
	})
	return metrics, errors.Join(errs...)
}

// pkg is one package's source, as far as it is needed to read string constants.
type pkg struct {
	fset   *token.FileSet
	consts map[string]ast.Expr // constants and package-level variables
}

func collectPackage(paths []string) ([]metric, error) {
	p := &pkg{fset: token.NewFileSet(), consts: map[string]ast.Expr{}}
	var parsed []*ast.File
	for _, path := range paths {
		file, err := parser.ParseFile(p.fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
		p.addValues(file)
	}
	var metrics []metric
	var errs []error
	for _, file := range parsed {
		alias := importName(file, prometheusPath)
		if alias == "" {
			continue
		}
		read := map[ast.Expr]bool{} // the options of the metrics that were read
		ast.Inspect(file, func(n ast.Node) bool {
			if options, ok := n.(*ast.CompositeLit); ok && isOptions(options, alias) && !read[options] {
				errs = append(errs, fmt.Errorf("%s: options of a metric must stand in the call that makes it, so that it can be documented", p.fset.Position(n.Pos())))
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			constructor := constructorOf(call, alias)
			if constructor == "" {
				return true
			}
			m, isMetric, err := p.metric(constructor, call)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", p.fset.Position(call.Pos()), err))
			case isMetric:
				if err := check(m); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", p.fset.Position(call.Pos()), err))
				}
				metrics = append(metrics, m)
			}
			if len(call.Args) > 0 {
				read[call.Args[0]] = true
			}
			return true
		})
	}
	return metrics, errors.Join(errs...)
}

func (p *pkg) addValues(file *ast.File) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			if value, ok := spec.(*ast.ValueSpec); ok && len(value.Values) == len(value.Names) {
				for i, name := range value.Names {
					p.consts[name.Name] = value.Values[i]
				}
			}
		}
	}
}

// metric reads one call of a function of the prometheus package.
func (p *pkg) metric(function string, call *ast.CallExpr) (metric, bool, error) {
	if function == "NewDesc" {
		return p.desc(call)
	}
	base, vec := strings.CutSuffix(strings.TrimPrefix(function, "New"), "Vec")
	base = strings.TrimSuffix(base, "Func")
	kind, ok := kinds[base]
	if !ok || !strings.HasPrefix(function, "New") {
		return metric{}, false, nil
	}
	if len(call.Args) == 0 {
		return metric{}, false, fmt.Errorf("%s without options", function)
	}
	options, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return metric{}, false, fmt.Errorf("the options of %s must be a literal, so that the metric can be documented", function)
	}
	m := metric{kind: kind}
	var namespace, subsystem string
	for _, element := range options.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		field := pair.Key.(*ast.Ident).Name
		target := map[string]*string{"Name": &m.name, "Help": &m.help, "Namespace": &namespace, "Subsystem": &subsystem}[field]
		if target == nil {
			continue
		}
		text, err := p.text(pair.Value)
		if err != nil {
			return m, false, fmt.Errorf("reading %s of %s: %w", field, function, err)
		}
		*target = text
	}
	m.name = strings.Join(slices.DeleteFunc([]string{namespace, subsystem, m.name}, func(s string) bool { return s == "" }), "_")
	if m.name == "" || m.help == "" {
		return m, false, fmt.Errorf("%s needs a Name and a Help", function)
	}
	if vec {
		if len(call.Args) < 2 {
			return m, false, fmt.Errorf("%s without labels", function)
		}
		labels, err := p.texts(call.Args[1])
		if err != nil {
			return m, false, fmt.Errorf("reading the labels of %s: %w", m.name, err)
		}
		m.labels = labels
	}
	return m, true, nil
}

// desc reads prometheus.NewDesc(name, help, labels, nil), which a Collector uses; whether it is a counter or a gauge
// is decided elsewhere, but names ending in _total are counters.
func (p *pkg) desc(call *ast.CallExpr) (metric, bool, error) {
	if len(call.Args) < 3 {
		return metric{}, false, errors.New("NewDesc needs name, help and labels")
	}
	name, err := p.text(call.Args[0])
	if err != nil {
		return metric{}, false, fmt.Errorf("reading the name of a NewDesc: %w", err)
	}
	m := metric{name: name, kind: "gauge"}
	if strings.HasSuffix(name, "_total") {
		m.kind = "counter"
	}
	if m.help, err = p.text(call.Args[1]); err != nil {
		return m, false, fmt.Errorf("reading the help of %s: %w", name, err)
	}
	if m.labels, err = p.texts(call.Args[2]); err != nil {
		return m, false, fmt.Errorf("reading the labels of %s: %w", name, err)
	}
	return m, true, nil
}

// text evaluates a string expression made of literals, constants of the package and +.
func (p *pkg) text(expr ast.Expr) (string, error) {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			return strconv.Unquote(e.Value)
		}
	case *ast.ParenExpr:
		return p.text(e.X)
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			break
		}
		left, err := p.text(e.X)
		if err != nil {
			return "", err
		}
		right, err := p.text(e.Y)
		return left + right, err
	case *ast.Ident:
		if value, ok := p.consts[e.Name]; ok {
			return p.text(value)
		}
		return "", fmt.Errorf("%s is no constant of this package", e.Name)
	case *ast.CallExpr: // prometheus.BuildFQName(namespace, subsystem, name)
		if s, ok := e.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "BuildFQName" {
			parts, err := p.list(e.Args)
			return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "_"), err
		}
	}
	return "", errors.New("must be made of literals and constants, so that it can be documented")
}

// texts evaluates a []string literal, or the name of one.
func (p *pkg) texts(expr ast.Expr) ([]string, error) {
	switch e := expr.(type) {
	case *ast.CompositeLit:
		return p.list(e.Elts)
	case *ast.Ident:
		if e.Name == "nil" {
			return nil, nil
		}
		if value, ok := p.consts[e.Name]; ok {
			return p.texts(value)
		}
	}
	return nil, errors.New("labels must be a literal, so that they can be documented")
}

func (p *pkg) list(exprs []ast.Expr) ([]string, error) {
	var texts []string
	for _, expr := range exprs {
		text, err := p.text(expr)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// importName is the name by which a file knows a package, "" when it does not import it.
func importName(file *ast.File, path string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value != strconv.Quote(path) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return "prometheus"
	}
	return ""
}

// constructorOf is the constructor's name when the call makes a metric: prometheus.NewX, or a method NewX (of
// promauto's factory) that is given options; "" otherwise.
func constructorOf(call *ast.CallExpr, alias string) string {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !strings.HasPrefix(s.Sel.Name, "New") {
		return ""
	}
	if x, ok := s.X.(*ast.Ident); ok && x.Name == alias {
		return s.Sel.Name
	}
	if len(call.Args) > 0 {
		if options, ok := call.Args[0].(*ast.CompositeLit); ok && isOptions(options, alias) {
			return s.Sel.Name
		}
	}
	return ""
}

// isOptions is true for a literal of prometheus.CounterOpts and its like.
func isOptions(literal *ast.CompositeLit, alias string) bool {
	s, ok := literal.Type.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	kind, isOpts := strings.CutSuffix(s.Sel.Name, "Opts")
	return ok && x.Name == alias && isOpts && kinds[kind] != ""
}
