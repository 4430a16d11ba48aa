use super::*;

fn read(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::default();
    objects.add("f.yaml", text)?;
    Ok(objects)
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: {ports: []}}";

fn service(name: &str) -> String {
    SERVICE.replace("NAME", name)
}

fn names(objects: &Objects) -> Vec<String> {
    let names = objects.services.iter().map(|service| {
        let meta = &service.metadata;
        format!("{}/{}", meta.namespace.as_deref().unwrap(), meta.name.as_deref().unwrap())
    });
    names.collect()
}

#[test]
fn documents_and_lists_of_all_forms() {
    let (a, b) = (service("a"), service("b"));
    let json = |name: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}\u00b7"}}}}"#)
    };
    for (text, expected) in [
        (a.clone(), "default/a"),
        (
            format!("\u{feff}# c\n---\n{a}\n---\n# nothing\n---\n---\n{b}\n...\n"),
            "default/a default/b",
        ),
        (format!("--- # c\n{a}\n...\n---\n{b}"), "default/a default/b"),
        (format!("{} {}", json("a"), json("b")), "default/a\u{b7} default/b\u{b7}"),
        (format!("{{apiVersion: v1, kind: List, items: [{a}, {b}]}}"), "default/a default/b"),
        (
            "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a, namespace: ns}"
                .to_owned(),
            "ns/a",
        ),
        ("apiVersion: v1\nkind: ServiceList\nitems: null".to_owned(), ""),
        ("apiVersion: apps/v1\nkind: Deployment\nspec: 7".to_owned(), ""),
        (String::new(), ""),
        // Somebody else's Service.
        (a.replace("apiVersion: v1", "apiVersion: serving.knative.dev/v1"), ""),
    ] {
        let objects = read(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!(names(&objects).join(" "), expected, "{text}");
    }
}

#[test]
fn mistakes_name_file_and_document() {
    let a = service("a");
    for (text, problem) in [
        (format!("{a}\n---\nkind: [x\n"), "f.yaml: document 2: f.yaml:4:1: not valid YAML"),
        (format!("{a}\n---\nx: 1\nx: 2"), "f.yaml: document 2: f.yaml:4:1: key `x` stands twice"),
        (format!("{a}\n---\nx: 1"), "f.yaml: document 2: has no apiVersion and kind; add them"),
        ("- 1".to_owned(), "f.yaml: document 1: f.yaml:1:1: the top level must be"),
        ("{} 7".to_owned(), "f.yaml: document 1"),
        (
            a.replace("[]", "[{port: x}]"),
            "f.yaml: document 1: Service a: invalid type: string \"x\"",
        ),
        (a.replace("name: a", "labels: {}"), "f.yaml: document 1: Service has no metadata.name"),
        (
            format!("{{apiVersion: v1, kind: List, items: [{a}, {{kind: Node}}]}}"),
            "f.yaml: document 1: item 2: has no apiVersion and kind",
        ),
        (
            "{apiVersion: v1, kind: List, items: {}}".to_owned(),
            "f.yaml: document 1: the items of this List are no list",
        ),
        (
            "{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice}".to_owned(),
            "EndpointSlice of discovery.k8s.io/v1beta1 is not known; use discovery.k8s.io/v1",
        ),
    ] {
        let told = read(&text).map(|objects| names(&objects)).unwrap_err();
        assert!(told.contains(problem), "{text}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}
