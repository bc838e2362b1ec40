// Logs in with what jit-broker printed: a URL, and for programs that have fields instead KEY=VALUE for each of them. pgjdbc.
import java.sql.DriverManager;
import java.util.Properties;

public class Query {
    public static void main(String[] args) throws Exception {
        var properties = new Properties();
        for (int i = 1; i < args.length; i++) {
            var at = args[i].indexOf('=');
            properties.setProperty(args[i].substring(0, at), args[i].substring(at + 1));
        }
        try (var connection = DriverManager.getConnection(args[0], properties);
                var rows = connection.createStatement().executeQuery("select current_user, count(*) from notes")) {
            rows.next();
            System.out.println(rows.getString(1) + "|" + rows.getString(2));
        }
    }
}
